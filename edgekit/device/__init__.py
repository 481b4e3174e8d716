"""Transports to devices. The local machine needs none; others come with `edgekit device`."""
