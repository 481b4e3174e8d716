"""Training: fine-tuning and recovery."""
