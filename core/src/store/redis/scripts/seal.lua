-- ARGV: total, ttl in milliseconds. Gives the total that holds, or nothing for an unknown batch.
if not go_on() then
  return false
end
if call('HSETNX', batch, 'total', ARGV[1]) == 1 then
  complete(ARGV[2])
  changed()
end
return call('HGET', batch, 'total')
