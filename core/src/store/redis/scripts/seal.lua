-- ARGV: total, ttl in milliseconds. Gives the total that holds: another one where it was sealed before, one past the last
-- outcome where there are some beyond; nothing for an unknown batch.
if not go_on() then
  return false
end
-- It was given up, and ends where it was closed: nobody needs to hear that as a fault.
if call('HEXISTS', batch, 'closed') == 1 then
  return ARGV[1]
end
if call('HEXISTS', batch, 'total') == 0 then
  local least = recorded_end()
  if least > tonumber(ARGV[1]) then
    return whole(least)
  end
  call('HSET', batch, 'total', ARGV[1])
  complete(ARGV[2])
  changed()
end
return call('HGET', batch, 'total')
