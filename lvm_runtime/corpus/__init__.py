"""A corpus: the vectors of documents in order, and which document each belongs to. `formats` says what is read."""
