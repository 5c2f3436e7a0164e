"""DICOM in and out: series, structure sets, segmentations and dose, each as plain arrays on a grid."""
