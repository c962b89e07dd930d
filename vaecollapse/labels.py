"""How a reading is written where people read it: its name, its numbers, and which stand beside a verdict.

Imports nothing."""

NAMES = {
    "rate": "rate R (nats)",
    "gap": "value of z (gap)",
    "train/gap": "value of z on training examples",
    "information_rank": "information rank",
    "directions_used": "directions the decoder uses",
    "mi": "I(x; z) (nats)",
    "sigma_median": "median σ_q of its spread",
    "beta_effective": "price of a nat (ELBO = 1)",
    "dead_units": "dead units",
    "floor_saturation": "share of groups at the floor",
    "price_of_a_nat": "price of a nat (loss units)",
    "active_units": "active units",
    "distortion": "distortion D",
    "forecast_directions": "directions forecast before training",
    "kl_per_unit_residual": "rate the flow's per-unit KL leaves out",
    "beyond_spline": "share of z beyond the spline",
    "prior_hole": "distance of q(z) to the prior (nats, at least)",
    "hole_auc": "q(z) told apart from the prior (area)",
    "prior_samples": "prior samples worse by (share of D̄)",
    "decoder_scale": "scale of the likelihood",
    "diversity_prior": "diversity of prior samples",
    "kl_over_floor": "KL over its floor",
    "fb_percent": "share of the KL that is free (%)",
    "weight_declared": "weight of the KL",
    "nll_per_token": "answer NLL per token (nats)",
    "null_unigram": "  of a unigram model without z",
    "null_prompt": "  of an n-gram that sees the prompt",
    "token_entropy": "  of these tokens' own frequencies",
    "saved_on_entropy": "saved on their frequencies",
    "answer_entropy": "H(answer) (nats)",
    "answer_entropy_given_prompt": "H(answer given prompt) (nats)",
    "rate_over_answer_entropy": "R over H(answer)",
    "rate_over_answer_entropy_given_prompt": "R over H(answer given prompt)",
    "exact_match": "answers written exactly",
    "delta_zero": "a token costs more with z = 0",
    "delta_mean": "a token costs more with the mean z",
    "delta_shuffled": "a token costs more with another's z",
    "delta_prior": "a token costs more with the prior's z",
    "token_cosine": "cosine of the most alike tokens",
    "token_std": "spread of the stillest token",
    "token_kl_min": "KL of the idlest token (nats)",
    "token_kl_max": "KL of the busiest token (nats)",
    "klr": "KLr, KL of a unit (nats)",
    "nll_second_stage": "NLL of held-out codes (nats)",
    "nll_standard_normal": "  of N(0, I)",
    "nll_gaussian": "  of a Gaussian with their covariance",
    "nll_run_prior": "  of the run's own prior",
    "kl_saved": "fall of KL(q(z)‖p) and of R (nats)",
    "train/distortion": "distortion D on training examples",
}
# of an evaluation
FIGURES = {
    "distortion": "distortion D, one draw",
    "rate": "rate R, one draw",
    "elbo": "ELBO = −(D + R) (nats)",
    "iw_nll": "importance-weighted NLL (nats)",
    "bits_per_dim": "bits per dimension",
    "mse": "mean squared error",
    "snr": "signal to noise (dB)",
    "explained": "share of variance explained",
    "iw_nll_per_token": "  per token",
    "iw_perplexity": "  as perplexity",
    "null_unigram": "NLL of a unigram model (nats)",
    "null_unigram_per_token": "  per token",
    "null_prompt": "NLL of an n-gram with the prompt",
    "null_prompt_per_token": "  per token",
    "rate_over_answer_entropy": "R over H(answer)",
    "rate_over_answer_entropy_given_prompt": "R over H(answer given prompt)",
}
BESIDE = (
    "rate",
    "price_of_a_nat",
    "active_units",
    "mi",
    "dead_units",
    "distortion",
    "nll_per_token",
    "null_unigram",
    "null_prompt",
    "exact_match",
    "forecast_directions",
    "kl_per_unit_residual",
    "beyond_spline",
    "nll_second_stage",
    "nll_standard_normal",
    "nll_gaussian",
    "nll_run_prior",
    "kl_saved",
)


Number = int | float | None


def number(value: Number) -> str:
    return "–" if value is None else f"{value:.4g}"


def written(
    name: str, value: Number, se: Number, threshold: Number, status: str, note: str
) -> tuple[str, str, str, str, str]:
    """A reading's cells: what it is called, its value, half its 95 % interval, the size that matters where it decides,
    and what it says.

    >>> written("rate", 1.652, 0.033, 0.1, "material", "")
    ('rate R (nats)', '1.652', '± 0.065', '0.1', 'material')
    """
    error = "" if se is None or value is None else f"± {1.96 * se:.2g}"
    limit = f"{threshold:.3g}" if threshold is not None and status != "measured" else ""
    word = "" if status == "measured" else status.replace("_", " ")
    return NAMES.get(name, name), number(value), error, limit, ", ".join(filter(None, (word, note)))
