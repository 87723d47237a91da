"""What every problem rests on: errors, files, documents, arrays, stopping, incumbent, workers, results.

Nothing here knows layers, servers or any problem, and nothing here imports another room.
"""
