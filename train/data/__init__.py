"""What is trained on: corpora, real and synthetic, their windows, and the documents held out."""
