"""From text files to the vectors of their chunks: read, cut, encode, keep."""
