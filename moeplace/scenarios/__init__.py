"""Sources of instances: architectures, places and links, routing that is generated, counting, readers of traces.

Nothing here makes an instance of a problem: that is the business of the problem's own ``scenarios``.
"""
