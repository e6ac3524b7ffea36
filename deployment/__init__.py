"""What goes to Azure and what it is told: run by `make` and the hooks of azure.yaml, not deployed itself.

Only the standard library is imported here, for the hooks run with whatever Python there is.
"""
