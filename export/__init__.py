"""Export: from an artifact to its compiled forms."""
