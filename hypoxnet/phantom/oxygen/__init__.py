"""From vessels to pO2: the solver, the fine model with explicit capillaries, its closure, and the object's voxels."""
