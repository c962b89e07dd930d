"""What an audit of a loss comes to."""

from typing import NamedTuple

APART = 0.05  # of the declared weight: beyond it another weight acts
DEAR, CHEAP = 10.0, 0.02  # β_eff from which, and up to which, it is said; 0.02 is the verdicts' variance collapse


class Audit(NamedTuple):
    """A loss as D + `weight` · R, R the KL in nats summed over units, mean over examples, D as the loss has it.

    `e`: a direction of the data lives above this variance (cells' units squared; None for a cross-entropy, which has
    no residual, and for a distance). `beta_effective`: `weight` over the price at which the loss would be an ELBO whose
    scale fits the residuals at hand. `declared` is the number that the script or the configuration multiplies the KL
    with, `free` the nats that a floor or target leaves without a price, `faults` what these figures do not cover.
    """

    distortion: str
    penalty: str
    weight: float
    declared: float | None
    e: float | None
    beta_effective: float | None
    free: float = 0.0
    faults: tuple[str, ...] = ()

    @property
    def convention(self) -> str:
        """The loss in words."""
        declared = "w" if self.declared is None else f"{self.declared:.4g}"
        return f"{self.distortion} + {declared} · {self.penalty}"

    def warnings(self) -> list[str]:
        """Sentences on a declared weight that is not the one that acts, on a β_eff far from 1, and on faults."""
        said = list(self.faults)
        if self.declared is not None and abs(self.weight - self.declared) > APART * abs(self.declared):
            said.append(
                f"the declared weight {self.declared:.4g} acts as {self.weight:.4g} per nat of R ({self.penalty})"
            )
        if self.beta_effective is None or DEAR > self.beta_effective > CHEAP or self.weight == 0:
            return said
        factor = 1 / self.beta_effective
        own = (
            f"beta={self.declared * factor:.3g}"
            if self.declared
            else f"a weight of {self.weight * factor:.3g} per nat of R"
        )
        much = "too dear for most of what z could say" if factor < 1 else "next to nothing: an autoencoder"
        said.append(f"a nat costs {self.beta_effective:.3g} times the ELBO's own price, {much}; that price is {own}")
        return said

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        said = f"audit: {self.convention}: a nat of R costs {self.weight:.4g}"
        said += f", e = {self.e:.3g}" if self.e is not None else ""
        said += f", beta_eff = {self.beta_effective:.3g}" if self.beta_effective is not None else ""
        said += f"; the first {self.free:.3g} nats are free" if self.free > 0 else ""
        return [said, *(f"warning: {sentence}" for sentence in self.warnings())]

    def against(self, price: float, se: float) -> str | None:
        """None where the price of a nat that a trained model pays is this weight (within 5 % or two standard errors),
        else a sentence. Above a floor and at convergence the two are one number, whatever the reductions.

        >>> Audit("D", "KL", 2.0, 2.0, 1.0, 1.0).against(1.97, 0.01) is None
        True
        """
        if abs(price - self.weight) <= max(APART * abs(self.weight), 2 * se):
            return None
        return (
            f"a trained nat costs {price:.4g} ± {2 * se:.2g} where the loss charges {self.weight:.4g}: "
            "training has not converged, a floor acts, or another weight acted than this"
        )
