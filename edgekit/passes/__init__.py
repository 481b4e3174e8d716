"""The passes, one file each. `edgekit.passes.base` says what a pass is."""
