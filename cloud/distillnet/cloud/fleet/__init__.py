"""The fleet service: certificates, the signed repository, devices and what they shall run.

`server.py` wires everything and nothing imports it but the commands. Trust comes from TUF and certificates, never from
the service's word; what runs on a board is what the board reports.
"""
