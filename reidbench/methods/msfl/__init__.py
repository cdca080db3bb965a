"Multi-scale feature learning and the multi-scale gradient regulariser (2020)."
from .pyramid import PyramidNet, load
from .regulariser import gradient_penalty
from .training import MSFLSettings, small, train

__all__ = ["PyramidNet", "load", "gradient_penalty", "MSFLSettings", "small", "train"]
