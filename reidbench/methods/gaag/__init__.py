"Attack-guided perceptual data generation (Huang, Fu, Zha, ICCV 2021)."
from .adjuster import Adjuster, GAAGSettings, adjust_features, appraise, load_adjuster, train_adjuster

__all__ = ["Adjuster", "GAAGSettings", "adjust_features", "appraise", "load_adjuster", "train_adjuster"]
