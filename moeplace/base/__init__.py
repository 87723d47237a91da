"""What every problem rests on and what knows none: errors, files, documents, arrays, stopping, results, methods."""
