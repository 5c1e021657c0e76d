"""A selector of one's own, in Table 1 and Figure 4 beside the paper's methods.

    ACS_PLUGINS=examples/largest_gradient.py make table1 fig4

It trains on the batches whose gradients are longest, all with the same weight. No file of the
package is touched.
"""

import torch

from acslib.gradients import LastLayerGradients, as_gradients
from acslib.paper import register
from acslib.selectors import Coreset


def largest_gradient(gradients: LastLayerGradients, budget: int) -> Coreset:
    """The `budget` samples (or batches, where those are selected) with the longest gradients."""
    norms = as_gradients(gradients).squared_norms()
    indices = norms.cpu().topk(budget).indices.sort().values
    weights = torch.full((budget,), len(norms) / budget, dtype=torch.float64)
    return Coreset(indices, weights)


register.method(
    "largest_gradient", largest_gradient, label="Largest gradient", items=("table1", "fig4")
)
