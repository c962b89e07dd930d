"""Is there as much structure at each scale?"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..refusal import Refused
from .fields import FieldMetric, Fields


def rings(height: int, width: int) -> Int[Tensor, "height half"]:
    """The radial wavenumber of each Fourier coefficient of `rfft2`, in cycles per the shorter side, rounded."""
    y, x = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
    return (torch.hypot(y[:, None], x) * min(height, width)).round().long()


def radial_spectrum(fields: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch wavenumbers"]:
    """RAPSD: |F|²/(HW) averaged over the rings of wavenumber 1, 2, …, ½ min(H, W), F the discrete Fourier transform.

    A wave of wavenumber 2 and amplitude 1 has ¼ HW in each of its two coefficients, of 12 in that ring:

    >>> wave = torch.cos(2 * torch.pi * 2 * torch.arange(8.0) / 8).expand(8, 8)
    >>> (radial_spectrum(wave) * 12 / 64).round(decimals=4)
    tensor([0.0000, 0.5000, 0.0000, 0.0000])
    """
    height, width = fields.shape[-2:]
    ring, longest = rings(height, width), min(height, width) // 2
    # a real field's coefficients come in pairs, of which rfft2 has one; the first column and an even width's last are
    # their own partners
    copies = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    copies[0] = 1
    copies[-1] = 1 if width % 2 == 0 else 2
    weight = (ring[..., None] == torch.arange(1, longest + 1)) * copies[:, None]
    mean = (weight / weight.sum((0, 1)) / (height * width)).flatten(0, 1)
    power = torch.view_as_real(torch.fft.rfft2(fields)).square().sum(-1).flatten(-2)
    return power @ mean.to(power)


class SpectrumDistance(FieldMetric):
    """`spectrum_distance` in dB: the root mean square over wavenumbers of 10 log₁₀ of the members' mean spectrum over
    the truth's, both averaged over times. `spectrum_fine` in dB: the same ratio, with its sign, over the upper half of
    the wavenumbers: negative where members are blurred.

    Masked cells are 0 in both. Not defined where a spectrum is 0 at some wavenumber.
    """

    def rows(
        self,
        real: Fields,
        generated: Float[Tensor, "members times height width"],
        valid: Bool[Tensor, "times height width"],
    ) -> Float[Tensor, "times n"]:
        if min(real.values.shape[1:]) < 4:
            raise Refused(f"a spectrum needs fields of at least 4 × 4 cells, but got {tuple(real.values.shape[1:])}")
        made = torch.stack([radial_spectrum(member) for member in generated]).mean(0)
        return torch.cat([made, radial_spectrum(real.values)], 1).double()

    def decibels(self, sums: Float[Tensor, "*blocks n"]) -> Float[Tensor, "*blocks wavenumbers"]:
        """10 log₁₀ of members' power over the truth's, by wavenumber 1, 2, …"""
        made, true = sums.chunk(2, -1)
        return torch.where((made > 0) & (true > 0), 10 * (made / true).log10(), torch.nan)

    def values(self, sums: Float[Tensor, "*blocks n"]) -> dict[str, Float[Tensor, "*blocks"]]:
        found = self.decibels(sums)
        fine = found[..., found.shape[-1] // 2 :]
        return {"spectrum_distance": found.square().mean(-1).sqrt(), "spectrum_fine": fine.mean(-1)}
