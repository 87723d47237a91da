"""What every problem rests on: errors, files, documents, arrays, stopping, the incumbent, workers, results, registry, text.

Nothing here knows layers, servers or any problem, and nothing here imports another room.
"""
