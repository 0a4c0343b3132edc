"""The dashboard: server-rendered pages over the fleet's facts, no script, light enough for a phone."""
