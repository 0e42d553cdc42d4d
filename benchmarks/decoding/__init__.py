"""Compare image decoding with the samples of generated files and with OpenCV: `python -m benchmarks.decoding`."""
