"""The form in which a trained model leaves home: safetensors and JSON."""
