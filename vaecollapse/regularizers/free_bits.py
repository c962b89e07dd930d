"""Free bits in its six forms (Kingma 2016, IAF appendix, and what libraries made of it).

A floor removes the price of the nats below it; it exerts no force. Above it the gradient is plain KL's times the
form's reduction factor.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..elbo import ELBO, Objective, Progress
from ..refusal import Refused
from .base import Weighted
from .coefficients import Coefficient
from .step_mean import StepMean
from .targets import declared

log = logging.getLogger(__name__)
GROUPINGS = ("unit", "token", "all")


class Form(NamedTuple):
    """Where the batch mean is taken, what is compared, and what happens to a group at or below the floor."""

    batch_inside: bool
    groups: str | None
    below: Literal["floor", "zero", "subtract"]


FORMS = {
    "batch_unit": Form(True, None, "floor"),
    "sample_unit": Form(False, None, "floor"),
    "sample_unit_mask": Form(False, None, "zero"),
    "sample_total": Form(False, "all", "floor"),
    "batch_total": Form(True, "all", "floor"),
    "hinge": Form(False, None, "subtract"),
}


def grouped(kl: Float[Tensor, "batch *unit"], groups: str) -> Float[Tensor, "batch groups"]:
    """The mean over each group's units, in nats per unit; `token` groups by the first latent axis."""
    if groups == "all":
        return kl.flatten(1).mean(1, keepdim=True)
    return kl.flatten(1) if groups == "unit" else kl.flatten(2).mean(2)


def free_bits(
    k: Float[Tensor, "batch groups"],
    floor: float,
    form: Form,
    units: int,
    scale: float = 1.0,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " groups"], Float[Tensor, "*shape"]]:
    """The penalty in nats, d penalty / d KL per group (mean over examples), and the KL per unit that was compared.

    `k` is nats per unit. The clamps sum over units: Σ_g n_g max(floor, k_g); `zero`: Σ_g n_g k_g 1[k_g > floor];
    `subtract` is the hinge: scale · mean_g max(k_g − floor, 0). `gather` makes of this batch's mean the one that is
    compared (over ranks, over the batches of a step).
    """
    count = k.shape[1]
    if form.batch_inside:
        k = k.mean(0, keepdim=True)
    compared = gather(k) if gather and form.batch_inside else k.detach()
    above = compared > floor
    if form.below == "subtract":
        terms, factor = scale / count * (k - floor) * above, scale / units
    else:
        below = floor if form.below == "floor" else 0.0
        terms, factor = units / count * torch.where(above, k, torch.full_like(k, below)), 1.0
    acting = factor * above.to(k.dtype).mean(0)
    return terms.sum(1).mean(), acting, compared[0] if form.batch_inside else compared


class FreeBits(Weighted):
    """loss = mean_b D + β(t) · free_bits(KL), `floor` in nats per unit, compared before β and before any division.

    `form: auto` is `batch_unit`, and `batch_total` where posterior or prior is a flow: there the KL is one Monte Carlo
    number per example, so a per-unit or per-example floor has no meaning and is refused.
    With gradient accumulation `batch_*` forms compare the mean over all batches of a step (see `StepMean`).
    `floor` may be moved while training; the moved one is kept in checkpoints.
    `scale` (hinge only): `one` divides by units, as practitioners do, `units` keeps a clamp's gradient above the floor.
    """

    def __init__(
        self,
        *,
        weight: Coefficient,
        floor: float,
        form: str = "auto",
        groups: str = "unit",
        scale: str = "one",
        mean_batch: str = "outside",
    ) -> None:
        super().__init__(weight=weight)
        if form != "auto" and form not in FORMS:
            raise Refused(f"regularizer.form={form} is no form of free bits: take auto, {', '.join(FORMS)}")
        if not 0 <= floor < float("inf"):
            raise Refused(f"a floor is a number of nats of at least 0, but free_bits={floor}: try free_bits=0.1")
        if groups not in GROUPINGS:
            raise Refused(f"regularizer.groups={groups} is no grouping: take unit, token or all")
        if scale not in ("one", "units") or mean_batch not in ("inside", "outside"):
            raise Refused(
                f"expected regularizer.scale one or units and regularizer.mean_batch inside or outside, but got "
                f"scale={scale} mean_batch={mean_batch}"
            )
        if form != "hinge" and (scale != "one" or mean_batch != "outside"):
            raise Refused(f"scale and mean_batch belong to the hinge, but form={form}: set regularizer.form=hinge")
        self.floor, self.form, self.groups, self.scale = float(floor), form, groups, scale
        self.mean_batch = mean_batch
        self.step = StepMean()

    def forward(self, elbo: ELBO, progress: Progress) -> Objective:
        form = self.resolved(elbo)
        per_unit = elbo.kl.ndim > 1
        k = grouped(elbo.kl, form.groups or self.groups) if per_unit else elbo.kl.unsqueeze(1) / elbo.units
        scale = float(elbo.units) if self.scale == "units" else 1.0
        # a reading prices its own block, since ranks read different numbers of them
        gather = partial(self.step, progress=progress) if self.training else None
        penalty, acting, compared = free_bits(k, self.floor, form, elbo.units, scale, gather)
        # a clamp compares nats of the whole group, the hinge nats per unit
        size = 1.0 if form.below == "subtract" else elbo.units / k.shape[1]
        weight = self.price(penalty, progress)
        return Objective(
            loss=elbo.distortion.mean() + weight * penalty,
            weight=weight * acting,
            declared=weight,
            penalty=weight * penalty,
            floor=torch.full_like(acting, self.floor * size),
            group_kl=compared * size,
            scalars={
                "zero_gradient": (compared <= self.floor).to(acting.dtype).mean(),
                "units_per_group": weight.new_tensor(size),
            },
        )

    def check(self, elbo: ELBO) -> None:
        """Warns where a posterior never has less than the floor: no batch would ever feel it."""
        super().check(elbo)
        least = declared(elbo, "least")
        if 0 < self.floor <= least and self.resolved(elbo).batch_inside:
            log.warning(
                "warning: free_bits=%g frees nothing: by construction this posterior has %.4g nats in every unit; type "
                "free_bits=%.3g, or regularizer=beta",
                self.floor, least, 2 * least,
            )  # fmt: skip

    def get_extra_state(self) -> Float[Tensor, ""]:
        return torch.tensor(self.floor, dtype=torch.float64)

    def set_extra_state(self, state: Float[Tensor, ""]) -> None:
        self.floor = float(state)

    def moved(self, knob: str, value: float) -> float | None:
        if knob != "free_bits":
            return super().moved(knob, value)
        old, self.floor = self.floor, float(value)
        return old

    def resolved(self, elbo: ELBO) -> Form:
        """The form at work on this latent; Refused where there is no KL per unit and the form needs one."""
        flow = elbo.kl.ndim == 1
        name = ("batch_total" if flow else "batch_unit") if self.form == "auto" else self.form
        if flow and name != "batch_total":
            raise Refused(
                f"regularizer.form={name} needs a KL per unit and example, which a flow posterior or prior "
                "does not have: set regularizer.form=batch_total, or posterior=normal prior=normal"
            )
        if not flow and self.groups == "token" and FORMS[name].groups is None and elbo.kl.ndim < 3:
            raise Refused(
                "regularizer.groups=token needs a latent of at least two axes, but this one is a vector: "
                "set regularizer.groups=unit"
            )
        form = FORMS[name]
        return form._replace(batch_inside=self.mean_batch == "inside") if name == "hinge" else form
