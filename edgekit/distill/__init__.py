"""Knowledge distillation: losses and teachers."""
