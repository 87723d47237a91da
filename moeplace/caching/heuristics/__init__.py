"""What the methods share to find placements: a placement under change, its neighbourhoods, fillings, columns.

Nothing here proves a bound of an instance, and nothing here is a method that a user calls.
"""
