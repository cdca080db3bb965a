"Every `jupyter nbconvert` that is started here: widgets leave their static twins in the notebook, not the address of something that will be gone."
import os

os.environ.setdefault("REIDBENCH_WIDGETS", "static")
