r"""Estimators for scikit-learn: a density, a transformer and an imputer, each of them a VAE.

.. math:: p(x) = \int p(x \mid z) \, p(z) \, dz

``VAEDensity`` scores by log p(x), ``VAETransformer`` maps x to E[z|x] and back to E[x|z], and
``VAEImputer`` fills what is missing of x by its mean given the rest. They wrap
:class:`pyro_vae.VAE` and :func:`pyro_vae.fit`, whose names the arguments have; the fitted model is
``estimator.vae_``, for everything else that there is to do with it.

Data are tables, an array or a data frame of shape ``(n_samples, n_features)``. All rows count
alike: no estimator takes ``sample_weight``. Nor do they take sparse matrices.
"""

from pyro_vae.sklearn.density import VAEDensity
from pyro_vae.sklearn.imputer import VAEImputer
from pyro_vae.sklearn.transformer import VAETransformer

__all__ = ["VAEDensity", "VAEImputer", "VAETransformer"]
