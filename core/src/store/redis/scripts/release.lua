-- ARGV: milliseconds that a complete batch stays. Gives whether it is complete, or nothing for an unknown batch.
if call('EXISTS', batch) == 0 then
  return false
end
if call('HEXISTS', batch, 'completed') == 0 then
  return 0
end
expire_in(math.min(tonumber(ARGV[1]), call('PTTL', batch)))
return 1
