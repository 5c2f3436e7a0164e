"""From a bundle and a case to a prediction on the patient's own grid."""
