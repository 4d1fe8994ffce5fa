-- ARGV: milliseconds without any change, milliseconds that the batch then stays unless somebody goes on with it.
-- Gives 1 for a batch that was never sealed and is given up now, 0 for any other, nothing for an unknown one.
if call('EXISTS', batch) == 0 then
  return false
end
local since = tonumber(call('HGET', batch, 'touched') or call('HGET', batch, 'created'))
if call('HEXISTS', batch, 'total') == 1 or tonumber(now()) - since < tonumber(ARGV[1]) then
  return 0
end
if call('HSETNX', batch, 'abandoned', 1) == 1 then
  expire_in(ARGV[2])
end
return 1
