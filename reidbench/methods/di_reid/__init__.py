"Degradation-invariant re-identification (Huang et al., CVPR 2020)."
from .comparators import lime
from .ddgan import DDGAN, degradation_ranking_loss, load_ddgan
from .dfen import DFEN, load
from .training import DIREIDSettings, small, train

__all__ = ["DDGAN", "DFEN", "degradation_ranking_loss", "DIREIDSettings", "train", "small", "load", "load_ddgan", "lime"]
