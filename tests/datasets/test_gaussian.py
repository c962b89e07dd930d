"""The requested covariance is the data's own, to rounding; splits are independent draws in the same directions."""

import pytest
import torch

from vaecollapse.datasets.gaussian import GaussianData, rotation
from vaecollapse.refusal import Refused

EIGENVALUES = (6.0, 3.0, 1.5, 0.8, 0.4, 0.3, 0.2, 0.1)


@pytest.mark.parametrize("eigenvalues", [EIGENVALUES, (2.0,), (1.0, 1.0, 100.0, 1e-4)])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_split_has_exactly_the_requested_covariance(eigenvalues: tuple[float, ...], seed: int) -> None:
    data = GaussianData(eigenvalues=eigenvalues, examples=300, val_examples=50, test_examples=40, seed=seed)
    u = rotation(len(eigenvalues), seed)
    torch.testing.assert_close(u.T @ u, torch.eye(len(eigenvalues), dtype=torch.float64), atol=1e-12, rtol=0)
    wanted = u @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ u.T
    for split in data.splits:
        x = split.x
        assert x.dtype == torch.float64
        assert x.mean(0).abs().max() < 1e-10
        torch.testing.assert_close(x.T @ x / len(x), wanted, atol=1e-10, rtol=0)


def test_free_draws_have_it_up_to_sampling_noise() -> None:
    data = GaussianData(examples=50_000, exact=False)
    found = torch.linalg.eigvalsh(data.splits.train.x.T.cov())
    torch.testing.assert_close(found, torch.tensor(EIGENVALUES[::-1], dtype=torch.float64), rtol=0.04, atol=0)
    assert data.splits.train.x.mean(0).abs().max() > 1e-6


def test_splits_are_independent_draws() -> None:
    train, validation, _ = GaussianData(examples=1000, val_examples=1000).splits
    correlation = (train.x * validation.x).mean(0) / torch.sqrt((train.x**2).mean(0) * (validation.x**2).mean(0))
    assert correlation.abs().max() < 0.15


def test_the_seed_turns_the_directions_and_redraws() -> None:
    assert not torch.allclose(rotation(8, 0), rotation(8, 1))
    first, second = (GaussianData(seed=seed).examples("train", 4).x for seed in (0, 1))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    "settings", [{"eigenvalues": ()}, {"eigenvalues": (1.0, -1.0)}, {"eigenvalues": (float("nan"),)}, {"examples": 8}]
)
def test_what_cannot_be_drawn_is_refused(settings: dict) -> None:
    with pytest.raises(Refused, match="type"):
        GaussianData(**settings)
