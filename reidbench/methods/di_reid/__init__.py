"Degradation-invariant re-identification (Huang et al., CVPR 2020)."
