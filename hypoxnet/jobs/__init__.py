"""The two jobs, end to end: train and evaluate; infer over a cohort."""
