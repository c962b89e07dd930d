"""What β really is: a loss read as distortion + weight · R on one batch, whatever it sums, averages or leaves out.

Nothing of a loss is believed but its values. They are differenced where the reconstruction moves and where the code
moves, and each difference is held against what every usual reduction would give. Two numbers say what β is: the price
of a direction, e, to compare with eigenvalues of the data's covariance, and β_eff, to compare with 1, the ELBO's own
price (docs/conventions.md).
"""

from .conclusion import Audit
from .losses import audit_loss
from .models import audit

__all__ = ["Audit", "audit", "audit_loss"]
