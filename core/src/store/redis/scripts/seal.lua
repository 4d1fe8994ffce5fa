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
  if least <= tonumber(ARGV[1]) then
    call('HSET', batch, 'total', ARGV[1])
  elseif call('HEXISTS', batch, 'stopped') == 1 then
    -- Whoever went on with it was stopped before they came to where it was.
    call('HSET', batch, 'total', whole(least), 'closed', whole(least))
  else
    return whole(least)
  end
  complete(ARGV[2])
  changed()
end
return call('HEXISTS', batch, 'closed') == 1 and ARGV[1] or call('HGET', batch, 'total')
