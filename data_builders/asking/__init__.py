"""How many rows ask a model many things, each thing once: translations, answers, judgments.

cache.py      answers kept by content in one SQLite file, whatever happens to the process
schedule.py   keeps a model busy with the requests of many rows
server.py     an OpenAI-compatible server: retries, time-outs, a key that is shown nowhere
progress.py   what is printed meanwhile
"""
