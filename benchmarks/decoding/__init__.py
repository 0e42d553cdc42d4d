"""Compare image decoding with what went into generated files and with OpenCV: `python -m benchmarks.decoding`."""
