"The widgets; each is imported when it is first asked for."
import importlib

_PLACES = {"Session": "base", "TwinWidget": "base", "ScoreSlider": "score_slider", "RankedList": "ranked_list", "OcclusionView": "occlusion_view",
           "ActivationView": "activation_view",
           "DegradationMap": "degradation_map", "QualityHistogram": "quality_histogram", "AttackTable": "attack_table",
           "PaperTable": "paper_table", "TrainingRun": "training_run", "Workbench": "workbench"}
__all__ = list(_PLACES)


def __getattr__(name):
    if name not in _PLACES:
        raise AttributeError(f"reidbench.widgets has no {name!r}: it has {', '.join(_PLACES)}")
    return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)


def __dir__():
    return sorted(_PLACES)
