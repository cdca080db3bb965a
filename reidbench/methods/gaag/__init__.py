"Attack-guided perceptual data generation (Huang, Fu, Zha, ICCV 2021)."
from .adjuster import Adjuster, GAAGSettings, adjust_features, appraise, load_adjuster, train_adjuster
from .attacker import Attacker, affinity, attack, attention_attack_loss, attention_map, harm, misranking_loss, train_attacker
from .identity import Gaussians, RunningGaussian, self_centre_loss, wasserstein_loss
from .training import GAAGTrainer, Generation, ship, small, train

__all__ = ["Adjuster", "GAAGSettings", "adjust_features", "appraise", "load_adjuster", "train_adjuster", "Attacker", "affinity", "attack", "attention_attack_loss", "attention_map", "harm",
           "misranking_loss", "train_attacker", "Gaussians", "RunningGaussian", "self_centre_loss", "wasserstein_loss", "GAAGTrainer", "Generation", "ship", "small", "train"]
