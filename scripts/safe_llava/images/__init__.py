"""Images wherever they lie: in folders or archives, whatever their names say, decoded or named as broken."""
