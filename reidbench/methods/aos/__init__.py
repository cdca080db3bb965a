"Adversarially occluded samples (Huang et al., CVPR 2018)."
from ..baseline import small
from .mining import Mined, choose, mine
from .training import AOSSettings, train

__all__ = ["AOSSettings", "mine", "choose", "train", "Mined", "small"]
