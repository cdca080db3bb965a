"Colour attack and joint adversarial defence (Gong et al., 2022); the attack, LTA, stands with the others in reidbench.attacks.feature."
from .defences import CircuitousScaling, Proactive, ResizePad
from .training import JADSettings, code, normal, small, train

__all__ = ["JADSettings", "CircuitousScaling", "ResizePad", "Proactive", "train", "code", "normal", "small"]
