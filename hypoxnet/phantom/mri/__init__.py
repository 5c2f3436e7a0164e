"""MRI of the object: properties, what sequences make of them, what a scanner records, and maps fitted to that."""
