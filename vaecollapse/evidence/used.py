"""How many directions of z a decoder uses, told from the decoder alone: for codes without a posterior's noise."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..batch import Batch
from ..detectors.base import Z95, Finding, undefined
from ..detectors.conditions import derangements
from ..detectors.information_rank import LARGEST
from ..nn.spectral import magnitudes
from ..vae import PART, VAE

STEP = 0.03  # standard deviations of a direction: small, so that what is blind to it stays blind
PROBED = 8  # clips that the decoder's sensitivity is read on
WINDOW, FRAMES = 512, 64  # of the spectrogram that it is read in
SPENT = 2**13  # decoded clips, about, that the exchanges may cost
FEWEST, MOST = 64, 256  # clips of an exchange
ORDERS = 4  # exchanges of each, where that can be afforded
SHARE = 0.1  # of an equal share of the whole gap: a direction worth less is not counted
OF_DISTANCE = 0.01  # of D̄: one worth more is, however many there are
FLAT = 1e-10  # of the largest variance


def rows_of(z: Float[Tensor, "n c *position"]) -> Float[Tensor, "n p c"]:
    """A latent as vectors of its channels, one for each position."""
    return z.double().flatten(2).transpose(1, 2) if z.ndim > 2 else z.double()[:, None]


def shaped(rows: Float[Tensor, "n p c"], like: Float[Tensor, "_ c *position"]) -> Tensor:
    """The inverse of `rows_of`."""
    return rows.transpose(1, 2).reshape(len(rows), *like.shape[1:]).to(like)


def axes(rows: Float[Tensor, "n p c"]) -> tuple[Float[Tensor, "c k"], Float[Tensor, "k c"]]:
    """Principal axes of z, one standard deviation long, and the map from z to their coordinates; what never varies has
    none. Each position's own mean is taken off."""
    centred = (rows - rows.mean(0)).flatten(0, 1)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    kept = values > FLAT * values.max().clamp(min=1e-300)
    root = values[kept].sqrt()
    return vectors[:, kept] * root, (vectors[:, kept] / root).T


def spectra(y: Float[Tensor, "batch time"], floor: float) -> Float[Tensor, "batch numbers"]:
    """Log magnitudes, averaged to a few frames."""
    found = (magnitudes(y.float(), torch.hann_window(min(WINDOW, y.shape[1]))) + floor).log()
    return F.adaptive_avg_pool1d(found, min(FRAMES, found.shape[-1])).flatten(1)


def decoded(vae: VAE, z: Tensor) -> Tensor:
    return torch.cat([vae.decode(part) for part in z.split(PART)])  # pyright: ignore[reportArgumentType, reportCallIssue]


def sensitivity(vae: VAE, z: Tensor, steps: Float[Tensor, "c k"]) -> Float[Tensor, "k k"]:
    """E[JᵀJ] of the decoder's spectra along small steps from a few clips' z."""
    few = z[:PROBED]
    rows, start = rows_of(few), decoded(vae, few)
    floor = 1e-3 * float(start.abs().max().clamp(min=1e-6))
    base = spectra(start, floor)
    moved = [spectra(decoded(vae, shaped(rows + STEP * step, few)), floor) - base for step in steps.T]
    each = torch.stack(moved).flatten(1).double() / STEP
    return each @ each.T / len(few)


def used_directions(vae: VAE, batch: Batch, *, seed: int = 0) -> list[Finding]:
    """`directions_used`: of the directions of z (of its channels, where it is a sequence), how many cost D when another
    clip's share of them is put in place of one's own. Told by no basis: directions are the decoder's own, eigenvectors
    of E[JᵀJ] in units of z's standard deviation, so that an invertible linear map of z changes nothing.

    A direction counts where the lower 95 % limit of its cost lies above a tenth of an equal share of the whole gap, or
    above 1 % of D̄.
    """
    elbo = vae.elbo(batch, seed=seed)
    z, name = elbo.z, "directions_used"
    if z.shape[1] > LARGEST:
        return [undefined(name, f"{z.shape[1]} channels are more than can be exchanged one by one")]
    rows = rows_of(z)
    if len(rows) < 2 or float((rows - rows[:1]).abs().max()) == 0:
        return [Finding(name, 0.0, None, len(rows), note="z is the same for all clips")]
    long, back = axes(rows)
    _, turn = torch.linalg.eigh(sensitivity(vae, z, long))
    long, back = long @ turn.flip(1), turn.flip(1).T @ back
    n = min(len(z), max(FEWEST, min(MOST, SPENT // len(back))))
    part, own = batch.part(slice(0, n)), elbo.distortion[:n].double()
    orders = derangements(n, max(1, min(ORDERS, SPENT // (n * len(back)))), (seed, 0))
    away = [rows[:n][order] - rows[:n] for order in orders]

    def cost(back: Tensor, long: Tensor) -> Tensor:
        changes = [each @ back.T @ long.T for each in away]
        each = [vae.distortion(part, shaped(rows[:n] + change, z[:n])).double() for change in changes]
        return torch.stack(each).mean(0) - own

    whole = float(cost(back, long).mean())
    between = vae.between(part, z[:n], orders[0])
    least = SHARE * max(0.0, whole) / len(back)
    if between is not None:
        least = min(least, OF_DISTANCE * float(between.mean()))
    costs = torch.stack([cost(back[i : i + 1], long[:, i : i + 1]) for i in range(len(back))])
    low, high = (costs.mean(1) + sign * Z95 * costs.std(1) / n**0.5 for sign in (-1, 1))
    floor = 1e-6 * float(own.abs().mean()) + least  # of a decoder's rounding
    count, most = int((low > floor).sum()), int((high > floor).sum())
    enough = n >= FEWEST and rows.shape[0] * rows.shape[1] >= 10 * len(back)
    said = [] if count == most else [f"up to {most} as far as these clips tell"]
    said += [] if enough else [f"too few clips: {n}"]
    note = "; ".join([*said, f"of {z.shape[1]}, by exchanging each in the decoder"])
    return [Finding(name, float(count), None, n, "measured" if enough else "undecided", least, note)]
