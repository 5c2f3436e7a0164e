"""From raw signal to quantitative maps with units, fitted for a whole volume at once.

Axis legend of the room: T samples (times, echoes, flips, b-values) come first, voxels after them in any shape; P
parameters, N voxels in a row. Samples first, so that each step of a fit is a sweep over contiguous voxels.
"""
