-- ARGV: total, ttl in milliseconds. Gives the total that holds, or nothing for an unknown batch.
if not go_on() then
  return false
end
-- It was given up, and ends where it was closed: nobody needs to hear that as a fault.
if call('HEXISTS', batch, 'closed') == 1 then
  return ARGV[1]
end
if call('HSETNX', batch, 'total', ARGV[1]) == 1 then
  complete(ARGV[2])
  changed()
end
return call('HGET', batch, 'total')
