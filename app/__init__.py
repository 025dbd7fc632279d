"""app: the front door. Command line, configuration, report, demo.

Nothing in here is imported by any other room, and nothing heavy is imported until it is used.
"""
