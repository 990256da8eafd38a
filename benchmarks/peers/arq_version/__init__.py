"""FastAPI, SQLAlchemy and arq on Redis: one API and one worker."""
