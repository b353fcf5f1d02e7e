"""Match emotion-data requests to vetted improv performers and pay every approved second."""

__version__ = "0.1.0"
