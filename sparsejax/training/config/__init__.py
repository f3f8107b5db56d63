"""Configs: the command line, option strings, sections, and the experiment."""
