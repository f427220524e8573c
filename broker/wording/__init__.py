"""How refusals, lists of models and what is left of a quota are said to each vendor's SDKs. One file per vendor. Pure."""
