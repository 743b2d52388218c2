"""The artifact: the folder in which a trained model travels, and the only thing that the parts share."""
